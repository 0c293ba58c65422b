"""What `resnet-jax doctor` has found."""


def grades(result):
    """By the names of the checks."""
    return {finding["check"]: finding["grade"] for finding in result["findings"]}


def said(result, check):
    """The words of one."""
    return next(finding["says"] for finding in result["findings"] if finding["check"] == check)
