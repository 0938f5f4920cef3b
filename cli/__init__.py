"""The command line: click commands, one file each, that parse, call the API and print."""

# An editable install has the checkout on sys.path; under a second name this package would be loaded twice.
if __name__ != "qkd_deploy.cli":
    raise ImportError(f"import qkd_deploy.cli instead of {__name__}")
