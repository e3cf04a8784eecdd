module agent-injector

go 1.24
