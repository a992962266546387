"""The study: does the registration bias what a network learns, and the score that it gets?"""
