"""Names as PostgreSQL takes them: it stores any character but the zero one, which JSON may carry."""


def pack(name: str) -> str:
    """A name without the zero character, so that two different names stay different."""
    if "\0" not in name and "\1" not in name:
        return name
    return name.replace("\1", "\1\1").replace("\0", "\1\2")


def unpack(text: str) -> str:
    """The name that was packed."""
    if "\1" not in text:
        return text
    return "\1".join(part.replace("\1\2", "\0") for part in text.split("\1\1"))
