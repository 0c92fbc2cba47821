"""The student in the making: plan, loop, evaluation, publishing."""
