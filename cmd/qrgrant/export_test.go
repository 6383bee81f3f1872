package main

// Main is the program, for the tests that run this test binary as qrgrant.
func Main() { main() }
