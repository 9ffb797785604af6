import { readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createServer, type TLSSocket } from 'node:tls';
import { beforeAll, describe, expect, it } from 'vitest';
import { onCleanUp } from '../support/cleanup.ts';
import { freePort, type Process, runProcess, runSuccessfully, startProcess } from '../support/processes.ts';
import { giveToServerUser, serverUser } from '../support/server-user.ts';
import { makeTempDir } from '../support/temp.ts';
import { startTemporal, type TemporalServer } from '../support/temporal.ts';
import { describeWith, repositoryRoot } from '../support/tools.ts';
import { until } from '../support/wait.ts';

const PROGRAM = join(repositoryRoot, 'scripts/walkeep');

/** An authority and what it signed, made by openssl. */
interface Certificates {
  readonly ca: string;
  readonly server: { readonly cert: string; readonly key: string };
  readonly client: { readonly cert: string; readonly key: string };
}

async function makeCertificates(): Promise<Certificates> {
  const directory = makeTempDir('tls');
  const file = (name: string): string => join(directory, name);
  const openssl = async (line: string): Promise<string> =>
    runSuccessfully('openssl', line.split(' '), { cwd: directory });
  const newKey = '-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes';
  await openssl(`req -x509 ${newKey} -days 2 -subj /CN=authority -keyout ca.key -out ca.pem`);
  const issue = async (name: string, extension: string): Promise<{ cert: string; key: string }> => {
    writeFileSync(file(`${name}.ext`), extension);
    await openssl(`req ${newKey} -subj /CN=${name} -keyout ${name}.key -out ${name}.csr`);
    const signed = `-CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile ${name}.ext -out ${name}.pem`;
    await openssl(`x509 -req -in ${name}.csr ${signed}`);
    const made = { cert: file(`${name}.pem`), key: file(`${name}.key`) };
    for (const one of [made.cert, made.key]) giveToServerUser(one);
    return made;
  };
  return {
    ca: file('ca.pem'),
    server: await issue('server', 'subjectAltName=DNS:temporal.test,DNS:localhost'),
    client: await issue('client', 'extendedKeyUsage=clientAuth'),
  };
}

/** TLS that wants a client's certificate, in front of a server that speaks none. @returns the port */
async function startTlsProxy({ ca, server }: Certificates, behind: TemporalServer): Promise<number> {
  const [, targetPort] = behind.address.split(':');
  const sockets = new Set<TLSSocket>();
  const proxy = createServer(
    {
      ca: readFileSync(ca),
      cert: readFileSync(server.cert),
      key: readFileSync(server.key),
      requestCert: true,
      rejectUnauthorized: true,
      ALPNProtocols: ['h2'],
    },
    (socket) => {
      sockets.add(socket);
      const target = connect(Number(targetPort), '127.0.0.1');
      for (const end of [socket, target]) end.on('error', () => {});
      socket.on('close', () => {
        sockets.delete(socket);
        target.destroy();
      });
      target.on('close', () => socket.destroy());
      socket.pipe(target).pipe(socket);
    },
  );
  proxy.on('tlsClientError', () => {});
  const port = await freePort();
  await new Promise<void>((listening) => proxy.listen(port, '127.0.0.1', listening));
  onCleanUp(() => {
    for (const socket of sockets) socket.destroy();
    proxy.close();
  });
  return port;
}

describeWith('temporal', 'Temporal behind mutual TLS', () => {
  let certificates: Certificates;
  let address: string;
  let variables: Record<string, string>;

  beforeAll(async () => {
    const temporal = await startTemporal();
    certificates = await makeCertificates();
    address = `localhost:${await startTlsProxy(certificates, temporal)}`;
    variables = {
      TEMPORAL_ADDRESS: address,
      TEMPORAL_TLS_SERVER_CA_CERT_PATH: certificates.ca,
      TEMPORAL_TLS_CLIENT_CERT_PATH: certificates.client.cert,
      TEMPORAL_TLS_CLIENT_KEY_PATH: certificates.client.key,
    };
  });

  const environment = (given: Record<string, string>): NodeJS.ProcessEnv => ({
    ...process.env,
    TEMPORAL_CONFIG_FILE: '',
    WALKEEP_STATE: makeTempDir('state'),
    ...given,
  });
  const logs = async (given: Record<string, string>) =>
    runProcess(PROGRAM, ['logs', 'main'], { user: serverUser, env: environment(given) });

  /** A worker without a PostgreSQL is enough: it connects as any other does. */
  async function startWorker(
    given: Record<string, string>,
  ): Promise<{ process: Process; ready(): Promise<boolean> }> {
    const metrics = `127.0.0.1:${await freePort()}`;
    const process = startProcess(PROGRAM, ['worker', '--queue', 'deletion', '--metrics', metrics], {
      user: serverUser,
      env: environment(given),
    });
    const get = async (path: string): Promise<boolean> => (await fetch(`http://${metrics}${path}`)).ok;
    await until('the worker to be healthy', () => get('/healthz'));
    return { process, ready: () => get('/readyz') };
  }

  describe.each([
    { how: 'variables', given: () => variables },
    {
      how: 'a profile of temporal.toml',
      given: () => {
        const file = join(makeTempDir('toml'), 'temporal.toml');
        const quoted = (text: string): string => JSON.stringify(text);
        const { ca, client } = certificates;
        writeFileSync(
          file,
          `[profile.backups]\naddress = ${quoted(address)}\n[profile.backups.tls]\nserver_ca_cert_path = ${quoted(ca)}\n` +
            `client_cert_path = ${quoted(client.cert)}\nclient_key_path = ${quoted(client.key)}\n`,
        );
        giveToServerUser(file);
        return { TEMPORAL_CONFIG_FILE: file, TEMPORAL_PROFILE: 'backups' };
      },
    },
  ])('by $how', ({ given }) => {
    it('S7: commands connect', async () => {
      const { stderr, code } = await logs(given());
      expect(stderr).toContain('Temporal knows no workflow of the cluster');
      expect(code).toBe(4);
    });

    it('S7: workers connect, and end in order', async () => {
      const worker = await startWorker(given());
      await until('the worker to be ready', () => worker.ready());
      expect(await worker.process.stop('SIGTERM', 30_000)).toMatchObject({ code: 0 });
    });
  });

  it('S7: without the client’s certificate a command says in one line that it can’t connect', async () => {
    const { TEMPORAL_TLS_SERVER_CA_CERT_PATH = '' } = variables;
    const { stderr, code } = await logs({ TEMPORAL_ADDRESS: address, TEMPORAL_TLS_SERVER_CA_CERT_PATH });
    expect(stderr.trim().split('\n')).toHaveLength(1);
    expect(stderr).toContain(`Temporal at ${address}`);
    expect(stderr).toContain('it wants a client certificate');
    expect(code).toBe(5);
  });

  it('S5: a server whose certificate nobody vouches for is not spoken to', async () => {
    const { TEMPORAL_TLS_SERVER_CA_CERT_PATH: _, ...unknown } = variables;
    for (const given of [unknown, { ...variables, TEMPORAL_TLS_SERVER_NAME: 'other.test' }]) {
      const { stderr, code } = await logs(given);
      expect(stderr).toMatch(/certificate/);
      expect(code).toBe(5);
    }
    const named = { ...variables, TEMPORAL_TLS_SERVER_NAME: 'temporal.test' };
    expect((await logs(named)).code).toBe(4);
  });

  it('F5: a worker without the certificate goes on, says why, and is not ready', async () => {
    const { TEMPORAL_TLS_SERVER_CA_CERT_PATH = '' } = variables;
    const worker = await startWorker({ TEMPORAL_ADDRESS: address, TEMPORAL_TLS_SERVER_CA_CERT_PATH });
    await until('it to say why', () => worker.process.output().includes('no work from Temporal'));
    expect(worker.process.output()).toMatch(/no work from Temporal: [^"]*certificate/i);
    expect(await worker.ready()).toBe(false);
    expect(await worker.process.stop('SIGTERM', 30_000)).toMatchObject({ code: 0 });
  });

  it('S1: an API key is not sent where TLS is off', async () => {
    const { stderr, code } = await logs({
      TEMPORAL_ADDRESS: 'temporal.invalid:7233',
      TEMPORAL_API_KEY: 'not-for-all-to-see',
      TEMPORAL_TLS: 'false',
    });
    expect(stderr).toContain('the API key would go to temporal.invalid:7233 in plain text');
    expect(stderr).not.toContain('not-for-all');
    expect(code).toBe(2);
  });
});
