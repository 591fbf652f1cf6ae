"""HTTP itself: the server, what bounds requests, problems, pages, entity tags, the document."""
