/**
 * An archiving agent in a process of its own, to be killed and stopped: `node wal-agent-process.ts '{…}'`.
 * It archives to a directory repository and writes one line for each answer.
 */
import { createArchiveSource } from '../../operations/archive-source.ts';
import { fetchWal } from '../../operations/fetch-wal.ts';
import { createWalAgent } from '../../operations/wal-agent.ts';
import { createRepository } from '../../repository/repository.ts';
import { openStore } from '../../stores/open-store.ts';
import type { Codec } from '../../streams/codec.ts';

export interface AgentProcessOptions {
  readonly socketPath: string;
  readonly pgdata: string;
  readonly directory: string;
  readonly server: string;
  readonly codec: Codec;
  readonly maxParallel: number;
}

// Our own test wrote it.
const options = JSON.parse(process.argv[2] ?? '{}') as AgentProcessOptions;

const source = createArchiveSource(async () => ({
  revision: '1',
  open: async () => ({
    repository: createRepository(openStore({ kind: 'file', directory: options.directory }), options.server),
    storage: { codec: options.codec },
    maxParallel: options.maxParallel,
  }),
}));
const agent = createWalAgent({
  ...options,
  source,
  fetch: async (name, destination, { signal }) => {
    const { repository } = await source.current();
    return fetchWal({ repository: () => Promise.resolve(repository) }, name, destination, { signal });
  },
  report: ({ request, name, answer, ms, error }) =>
    process.stdout.write(
      `${request} ${name} ${answer} ${Math.round(ms)} ms ${error instanceof Error ? error.message : ''}\n`,
    ),
});
await agent.start();
process.stdout.write('listening\n');
process.once('SIGTERM', () => void agent.stop().then(() => process.exit(0)));
