import { createServer } from 'node:http';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer as createTlsServer } from 'node:https';
import type { AddressInfo } from 'node:net';

/** A request for credentials, as the stand-in saw it. */
export interface AskedCredentials {
  readonly call: string;
  readonly headers: IncomingMessage['headers'];
  /** Of STS. */
  readonly form: URLSearchParams;
}

/** STS, the agent of EKS pod identity and the metadata service of EC2 on one loopback port. */
export interface AwsSignIn {
  readonly url: string;
  readonly asked: AskedCredentials[];
  /** Access key ids that were given, and until when each is good. */
  readonly keys: Map<string, number>;
  /** How long the next credentials live, in ms. */
  livesMs: number;
  /** Instead of credentials; 0 breaks the connection off. */
  refusal: { readonly status: number; readonly body: string } | undefined;
  close(): Promise<void>;
}

export async function startAwsSignIn(tls?: {
  readonly key: string;
  readonly cert: string;
}): Promise<AwsSignIn> {
  const give = () => {
    const id = `canary-id-${signIn.keys.size + 1}`;
    const endsAt = Date.now() + signIn.livesMs;
    signIn.keys.set(id, endsAt);
    return {
      id,
      secret: 'canary-secret',
      token: `canary-session-${id}`,
      ends: new Date(endsAt).toISOString(),
    };
  };
  const answer = (call: string, response: ServerResponse): unknown => {
    if (signIn.refusal?.status === 0) return response.destroy();
    if (signIn.refusal) return response.writeHead(signIn.refusal.status).end(signIn.refusal.body);
    if (call === 'PUT /latest/api/token') return response.end('canary-imds');
    if (call === 'GET /latest/meta-data/iam/security-credentials/') return response.end('the-role');
    const { id, secret, token, ends } = give();
    if (call === 'POST /') {
      const fields = `<AccessKeyId>${id}</AccessKeyId><SecretAccessKey>${secret}</SecretAccessKey><SessionToken>${token}</SessionToken><Expiration>${ends}</Expiration>`;
      return response
        .writeHead(200, { 'content-type': 'text/xml' })
        .end(
          `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult><Credentials>${fields}</Credentials></AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`,
        );
    }
    return response.writeHead(200, { 'content-type': 'application/json' }).end(
      JSON.stringify({
        Code: 'Success',
        AccessKeyId: id,
        SecretAccessKey: secret,
        Token: token,
        Expiration: ends,
      }),
    );
  };
  const listener = (incoming: IncomingMessage, response: ServerResponse) => {
    const pieces: Buffer[] = [];
    incoming.on('data', (piece: Buffer) => pieces.push(piece));
    incoming.on('end', () => {
      const call = `${incoming.method} ${incoming.url}`;
      const form = new URLSearchParams(Buffer.concat(pieces).toString());
      signIn.asked.push({ call, headers: incoming.headers, form });
      answer(call, response);
    });
  };
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const signIn: AwsSignIn = {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    asked: [],
    keys: new Map(),
    livesMs: 3_600_000,
    refusal: undefined,
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return signIn;
}
