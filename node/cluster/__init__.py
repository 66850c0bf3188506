"""The machines of one house: who is there, and who of them holds which layers. No master."""
