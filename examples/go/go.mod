module example.com/pygrade-example

go 1.23
