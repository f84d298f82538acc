"""The guardian acts: watches, stops, refuses and gives memory back."""
