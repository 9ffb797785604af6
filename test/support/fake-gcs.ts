import { freePort, type Process, startProcess } from './processes.ts';
import { toolPath } from './tools.ts';
import { until } from './wait.ts';

export interface GcsServer {
  readonly endpointUrl: string;
  /** Made already. */
  readonly bucket: string;
  /** For whoever reads Google's variables, such as barman-cloud. */
  readonly environment: Readonly<Record<string, string>>;
  createBucket(name: string): Promise<void>;
  /** What the server keeps of an object: metadata, checksum, class. */
  record(key: string): Promise<Record<string, unknown>>;
}

const BUCKET = 'backups';

/** An emulator of Google Cloud Storage with an empty bucket, in memory, ended with the test file at the latest. */
export async function startFakeGcs(): Promise<GcsServer> {
  const port = await freePort();
  const endpointUrl = `http://127.0.0.1:${port}`;
  const server: Process = startProcess(toolPath('fake-gcs-server'), [
    '-backend=memory',
    '-scheme=http',
    '-host=127.0.0.1',
    `-port=${port}`,
    `-external-url=${endpointUrl}`,
    `-public-host=127.0.0.1:${port}`,
    '-log-level=error',
  ]);
  await until(
    'fake-gcs-server to answer',
    async () => !server.isRunning() || (await fetch(`${endpointUrl}/_internal/healthcheck`)).ok,
  );
  if (!server.isRunning()) throw new Error(`fake-gcs-server did not start:\n${server.output()}`);

  const createBucket = async (name: string): Promise<void> => {
    const answer = await fetch(`${endpointUrl}/storage/v1/b?project=test`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name }),
    });
    if (!answer.ok) throw new Error(`bucket ${name} was not made: ${answer.status}`);
  };
  await createBucket(BUCKET);
  return {
    endpointUrl,
    bucket: BUCKET,
    environment: { STORAGE_EMULATOR_HOST: endpointUrl },
    createBucket,
    async record(key) {
      const answer = await fetch(`${endpointUrl}/storage/v1/b/${BUCKET}/o/${encodeURIComponent(key)}`);
      return (await answer.json()) as Record<string, unknown>;
    },
  };
}
