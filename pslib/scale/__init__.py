"""Beyond the nano world: a pretrained model, the paper's sizes, a trained model for others."""
