"""commplan turns a communication plan into messages people receive and an evaluation one can trust."""

__version__ = "0.1.0"
