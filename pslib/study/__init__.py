"""What the method study and the explorer show: the worked example, its pictures, the released code's departures, both modes side by side."""
