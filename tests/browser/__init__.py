"""Does the page work where it is read: in a browser, without a network, for everybody?"""
