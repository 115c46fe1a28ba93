"""Networks run by other libraries than torch: exported once, kept by content, compared before they serve."""
