package qr

// Limits bounds what one asker, person or address can do (protocol §9). Zero values are the defaults.
type Limits struct{}

func (l *Limits) defaults() {}
