"""TensorBoard, W&B and MLflow follow a run: docs/see.md."""
