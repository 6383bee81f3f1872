package player

// AccessToken is what SignIn obtained; empty before it.
func (p *Approver) AccessToken() string { return p.token }
