"""What other people's programs and our recipients' browsers reach: the receiver and the hosted pages."""
