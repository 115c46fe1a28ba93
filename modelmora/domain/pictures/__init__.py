"""Pictures that are kept and searched: records, their way into an index, questions and answers."""
