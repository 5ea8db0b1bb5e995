"""What the command ``mgem`` does: run one experiment, sweep over many, and say what came out."""
