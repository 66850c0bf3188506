"""What a provider has carried and earned."""
