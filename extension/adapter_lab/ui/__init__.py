"""The tab: a container that the page in `javascript/` draws itself into, in a web UI or in a page of its own."""
