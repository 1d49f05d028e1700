"""What the pipeline tests stand on: real servers, the product as a user starts it, a load, an independent oracle."""
