"""The studio: a page on this machine to label, clean, train, try and export.

`journal.py` stores every decision, `library.py` lists the images and moves files, `app.py` has the routes, `guard.py`
decides which requests are answered, and `page/` is the page: plain modules and a style sheet, without a framework.
"""
