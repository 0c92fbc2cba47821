"""What the product is worth: replayed annotation and measured uncertainty, on labeled pools."""
