"""What tests of RunAI and of its plugins need: engines and pictures that need no model."""
