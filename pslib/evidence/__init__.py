"""From the results in files to tables, figures and verdicts, without a model."""
