"""The command ``mgem-report``: what run folders say together. Knows their files alone, and needs no torch."""
