"""Values chosen by what users do in four weeks: experiments that keep a user at one setting, planned and read."""
