"""The studio's API, page by page; what it answers is listed in docs/studio.md."""
