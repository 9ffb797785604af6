import { createVerify, generateKeyPairSync } from 'node:crypto';
import { createServer } from 'node:http';
import type { IncomingHttpHeaders, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { Secret } from '../../core/secret.ts';

/** A request for a token. */
export interface SeenSignIn {
  readonly method: string;
  readonly path: string;
  readonly query: URLSearchParams;
  readonly headers: IncomingHttpHeaders;
  readonly form: URLSearchParams;
}

/** A stand-in for Google's token server and for the metadata server of a machine, on loopback. */
export interface SignIn {
  readonly seen: SeenSignIn[];
  /** `host:port`, as GCE_METADATA_HOST wants it. */
  readonly host: string;
  /** The file of a service account that signs in here. Its key holds the text of `keyText`. */
  readonly serviceAccount: Secret;
  /** Lines of the private key, which nothing may show. */
  readonly keyLines: readonly string[];
  /** The token that was given last. */
  token(): string;
  /** What the next tokens are good for. */
  lifetimeSeconds: number;
  /** Answers instead, when set. */
  refuse: ((response: ServerResponse) => void) | undefined;
  /** The claims of a request, whose signature was right. */
  claimsOf(request: SeenSignIn): Record<string, unknown>;
  close(): Promise<void>;
}

export const EMAIL = 'backup@project.iam.gserviceaccount.com';

export async function startSignIn(): Promise<SignIn> {
  const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' }).toString();
  const seen: SeenSignIn[] = [];
  let given = 0;

  const server = createServer((incoming, response) => {
    const pieces: Buffer[] = [];
    incoming.on('data', (piece: Buffer) => pieces.push(piece));
    incoming.on('end', () => {
      const url = new URL(incoming.url ?? '/', 'http://sign-in');
      const form = new URLSearchParams(Buffer.concat(pieces).toString());
      const { method = '', headers } = incoming;
      const isPing = /^\/computeMetadata\/v1\/instance\/?$/.test(url.pathname);
      if (!isPing) seen.push({ method, path: url.pathname, query: url.searchParams, headers, form });
      if (signIn.refuse !== undefined && !isPing) {
        signIn.refuse(response);
        return;
      }
      if (!isPing) given += 1;
      response.writeHead(200, { 'content-type': 'application/json', 'metadata-flavor': 'Google' });
      const answer = { access_token: `canary-token-${given}`, expires_in: signIn.lifetimeSeconds };
      response.end(JSON.stringify(isPing ? {} : { ...answer, token_type: 'Bearer' }));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const host = `127.0.0.1:${(server.address() as AddressInfo).port}`;

  const signIn: SignIn = {
    seen,
    host,
    serviceAccount: new Secret(
      JSON.stringify({
        type: 'service_account',
        client_email: EMAIL,
        private_key_id: 'key-1',
        private_key: pem,
        token_uri: `http://${host}/token`,
      }),
    ),
    keyLines: pem.split('\n').filter((line) => line !== '' && !line.startsWith('-----')),
    token: () => `canary-token-${given}`,
    lifetimeSeconds: 3600,
    refuse: undefined,
    claimsOf({ form }) {
      const [header = '', claims = '', signature = ''] = form.get('assertion')?.split('.') ?? [];
      const verify = createVerify('RSA-SHA256').update(`${header}.${claims}`);
      if (!verify.verify(publicKey, signature, 'base64url')) throw new Error('the signature is wrong');
      return JSON.parse(Buffer.from(claims, 'base64url').toString()) as Record<string, unknown>;
    },
    async close() {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
  return signIn;
}
