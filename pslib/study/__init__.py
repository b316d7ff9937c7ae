"""What the teaching notebooks show: the worked example, its pictures, the released code's
departures, the explorer.
"""
