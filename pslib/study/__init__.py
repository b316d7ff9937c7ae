"""What the teaching notebooks show: worked example, pictures, departures, explorer."""
