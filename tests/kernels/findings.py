"""What the emulator may find in the kernels."""

# The advantage is scaled in place. Of a group below a warp's size, lanes hold copies: they load an element that another
# lane stores, and what they loaded is never stored.
HARMLESS = {("_scale_kernel", "race between lanes of a warp")}


def unexpected(findings):
    """The other findings, as text."""
    return [str(finding) for finding in findings if (finding.kernel, finding.kind) not in HARMLESS]
