"""MONAI Label's task objects: infer, train, scoring and strategies, with this app behind them."""
