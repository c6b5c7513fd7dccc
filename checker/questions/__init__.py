"""Ask a model a question: does it pass, is it kept, where are its outlier features, what do they mean?"""
