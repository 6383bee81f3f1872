// Package providertest runs a real provider for tests: our own and those of embedders. It has
// a bolt file in the test's temporary directory, a listener on loopback, a clock that moves
// only when told, one client of every kind and one person. Nothing in it is a mock.
package providertest
