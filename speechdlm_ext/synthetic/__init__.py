"""Made conversations: two voices that take turns, with the truth of who speaks when."""
