"""Conditions on fields of an event: CEL expressions over `event`, as the matchConditions of Kubernetes' webhooks.

    model       what a user writes, and its bounds
    grammar     text -> syntax tree: our own parser, so that only what is bounded reaches the native library
    fields      the fields of an event that an expression may name, and their types
    static      syntax tree -> the fields that it names, and the text that the library is given
    regex       what a regular expression costs
    program     the compiled expression: type-checked once, evaluated for each event
    values      an event -> the values of these fields, and of no others
    view        an event as the policies of a route leave it
    check       what is wrong with the conditions of a spec

An event is kept if every condition is true. A condition that fails on an event counts as true: evidence wins.
Only `program` imports the CEL library, when the first condition is compiled.
"""
