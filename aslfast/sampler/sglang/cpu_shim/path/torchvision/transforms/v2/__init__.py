from torchvision import __getattr__

__all__ = ["__getattr__"]
