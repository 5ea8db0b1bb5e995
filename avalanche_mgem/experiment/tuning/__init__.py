"""``mgem tune``: hyper-parameters chosen by the accuracy on validation samples, with Optuna."""
