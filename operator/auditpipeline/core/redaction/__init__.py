"""What an event must not take along: secrets in bodies, URLs, annotations and messages.

    model       what is asked for: the default list, by which method, and a user's own rules
    places      the list: every place where an event may hold a secret, one line a kind
    redactor    the one place that applies it to an event

Redaction comes before the first disk. It keeps keys, types and shape, so that the event stays valid, and it says how
many values it took (`model.ANNOTATION`).
"""
