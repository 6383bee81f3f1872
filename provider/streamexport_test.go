package provider

import "context"

// EndSignIn ends a sign-in as the end of a person's session does.
func (p *Provider) EndSignIn(ctx context.Context, sid string) error { return p.endSignIn(ctx, "", sid) }
