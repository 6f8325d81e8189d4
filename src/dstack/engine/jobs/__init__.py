"""The life of one attempt of a job, from the queue to its last log byte."""
