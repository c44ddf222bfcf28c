"""A study: a corpus, its views and settings; the runs it wants; doing them; their files and records."""
