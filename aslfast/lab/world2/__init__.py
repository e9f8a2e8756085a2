"""The lab's second world: answers with several right spellings, namesakes, facts that are missing, one to four hops."""
