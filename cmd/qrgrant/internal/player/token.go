package player

// AccessToken is what SignIn obtained; empty before it.
func (p *Approver) AccessToken() string { return p.token }

// TokenType is that of the access token: DPoP when it is bound to Key, else Bearer.
func (p *Approver) TokenType() string { return p.scheme }
