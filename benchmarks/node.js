// Node as a server: node node.js MODE PROTOCOL PORT COUNT.
//
// MODE is `direct`, one process; or one of the two ways of Node's cluster with COUNT
// processes: `roundrobin`, in which the primary accepts and sends each connection to a
// process, or `shared`, in which all accept from one socket.
//
// Each process writes `ready` to its standard output.  If a process is killed by
// SIGKILL, another is started.  SIGTERM ends all.
'use strict';

const cluster = require('node:cluster');
const fs = require('node:fs');
const net = require('node:net');

const [mode, protocol, port, count] = process.argv.slice(2);

function serve() {
  const server = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
    if (protocol === 'stay') socket.write(`pid ${process.pid}\n`);
    else socket.end('hello, world\n');
  });
  const where = { port: Number(port), host: '127.0.0.1', backlog: 16384 };
  server.listen(where, () => fs.writeSync(1, 'ready\n'));
}

function supervise() {
  let ending = false;
  cluster.schedulingPolicy =
    mode === 'roundrobin' ? cluster.SCHED_RR : cluster.SCHED_NONE;
  for (let each = 0; each < Number(count); each += 1) cluster.fork();
  cluster.on('exit', (worker, code, signal) => {
    if (!ending && signal === 'SIGKILL') cluster.fork();
    else if (!Object.keys(cluster.workers).length) process.exit(0);
  });
  process.on('SIGTERM', () => {
    ending = true;
    for (const worker of Object.values(cluster.workers)) worker.process.kill();
  });
}

if (mode === 'direct' || !cluster.isPrimary) serve();
else supervise();
