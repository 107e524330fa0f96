module pygrade.example/client

go 1.21
